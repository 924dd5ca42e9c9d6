"""How fast, how large: FastVLM measured beside what people run today."""
