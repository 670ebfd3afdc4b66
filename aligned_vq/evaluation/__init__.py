"""What every way of sending an image costs and answers, on the same questions.

`examiner` asks the questions under any `FeaturePath`; `image_baselines`, `feature_baselines` and
`codec_path` are the paths; `results` turns what came out into rows that can be compared, with the
intervals of `bootstrap` and the codebook figures of `usage`. `vqav2` asks VQA-v2's questions over
the same paths and lets the model write its answers.
"""
