"""VQA-v2 from its official files: the answers of a model, and the official accuracy of them.

`files` reads questions and people's answers, `answerers` ask a model, `answer_log` keeps what it
said across kills, `plans` says which rows there are and `job` answers one; `metric` scores,
`report` and `rows` show, and `published` holds what others measured. `world` writes the reference
world in the same format.
"""
