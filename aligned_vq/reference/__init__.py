"""The bundled reference model: a small LLaVA trained from scratch on a rendered world.

`scenes` draws the world, `questions` asks about it, `blueprint` builds the untrained checkpoint,
`recipe` trains it (`aligned-vq reference train`). Every figure measured with it says so.
"""
