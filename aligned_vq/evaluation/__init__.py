"""Evaluation of ways to send an image, by their cost and by a model's accuracy on fixed questions.

A `FeaturePath` is one way to send images: `codec_path` and `baselines` implement it. `examiner`
evaluates a path on the reference world's questions; `results` formats rows, with confidence
intervals of `bootstrap` and codebook statistics of `usage`. `vqav2` evaluates paths on VQA-v2 with
generated answers.
"""
