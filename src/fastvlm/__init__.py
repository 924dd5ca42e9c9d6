"""FastVLM: ask a vision-language model about pictures.

Example:
    >>> from fastvlm import load
    >>> model = load("nano")
    >>> answer = model.ask("What color is the circle?", images=["scene.png"])  # doctest: +SKIP
    >>> print(answer.text)  # doctest: +SKIP
"""

__version__ = "0.1.0"
