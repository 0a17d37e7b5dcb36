"""How the demo's models are made: texts, training, model cards."""
