"""Function calling: tools in prompts, grammars of calls, and calls in generated text."""
