"""Objectives of a step: contrastive and generative losses, distillation, held-out losses."""
