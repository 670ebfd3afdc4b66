"""Evaluation on VQA-v2 from its official files, with the official accuracy.

`files` reads questions and human answers, `answerers` ask a model, and `answer_log` saves its
answers so that a job can be resumed. `plans` defines the rows of a table, and `job` answers one.
`metric` computes accuracies, `report` and `rows` format them, and `published` has the figures of
others. `world` writes the reference world in the same format.
"""
