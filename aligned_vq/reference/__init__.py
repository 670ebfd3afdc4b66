"""The bundled reference model: a small LLaVA trained from scratch on a rendered world.

`blueprint` builds the untrained checkpoint, `recipe` trains it on the world of
`aligned_vq.data.scenes` (`aligned-vq reference-train`). Every figure that was measured with it
says so.
"""
