"""Images and sound: inputs, decoding, media tokens, and the towers of models that read them."""
