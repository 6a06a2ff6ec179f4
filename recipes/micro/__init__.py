"""The paper in miniature: a made world, tiny vision-language models, and the whole method trained and measured on it (docs/micro.md).

world       pictures, questions, what is risky, what is held out
bases       tiny LLaVA, Idefics3 and Gemma3: tokenizer, processors, random weights
lessons     what the bases and the targets are taught: the only training loop of our own
oracle      who knows the world: teacher and judge of the synthesis, and the best rewriter there is
arms        the datasets that rewriters are trained on, and the defences that are compared
sizes       how large a run is
making      what a run makes, piece by piece, and where it is kept
evaluation  held-out questions × targets × arms, the reports and metrics.json
__main__    python -m recipes.micro quick | split | full
"""
