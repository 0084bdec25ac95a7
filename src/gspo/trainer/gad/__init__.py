"""Generative adversarial distillation (GAD, arXiv 2511.10643): stages, discriminator, pairs of student and teacher."""

__all__: list[str] = []
