"""The paper in miniature: a made world, tiny vision-language models, and the whole method trained and measured on it (docs/micro.md).

world     pictures, questions, what is risky, what is held out
bases     tiny LLaVA, Idefics3 and Gemma3: tokenizer, processors, random weights
lessons   what the bases and the targets are taught: the only training loop of our own
oracle    who knows the world: teacher and judge of the synthesis, and the upper bound
arms      the datasets that rewriters are trained on, and the defences that are compared
__main__  python -m recipes.micro quick | full: the run, its gates, metrics.json and report.html
"""
