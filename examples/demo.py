"""Ask the embedded model about the example pictures: what `make demo` runs.

Run with `python examples/demo.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from fastvlm import load

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Load once, then stream an answer to each example question, with its figures."""
    started = time.perf_counter()
    model = load("nano")
    print(f"nano loaded in {time.perf_counter() - started:.1f} s ({model.backend.description})")
    questions = json.loads((PICTURES / "questions.json").read_text(encoding="utf-8"))
    for name, prompts in questions.items():
        print(f"\n{PICTURES.name}/{name}")
        for prompt in prompts:
            print(f"  {prompt}\n    ", end="")
            stream = model.stream(prompt, images=[PICTURES / name], max_new_tokens=64)
            for piece in stream:
                print(piece, end="", flush=True)
            answer = stream.answer
            print(
                f"\n    [first token after {answer.timings.ttft_ms:.0f} ms, "
                f"{answer.timings.tokens_per_second:.0f} tokens/s, "
                f"{answer.usage.image_tokens} image tokens]"
            )


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character
    main()
