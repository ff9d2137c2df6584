"""In the convert image: greedy text of a checkpoint by transformers, and logits of exports.

reference.py text CHECKPOINT PROMPT      prints the continuation as JSON
reference.py logits A.tflite B.tflite    prints whether decode logits are equal to the bit
"""

import json
import sys
from typing import Any

TOKENS = 12


def text(checkpoint: str, prompt: str) -> Any:
    """Return the greedy continuation of a prompt, in float32."""
    import sentencepiece
    import torch
    from transformers import Gemma3ForCausalLM

    processor = sentencepiece.SentencePieceProcessor(model_file=f"{checkpoint}/tokenizer.model")
    model = Gemma3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = [processor.bos_id(), *processor.EncodeAsIds(prompt)]
    with torch.inference_mode():
        out = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    return {"text": processor.DecodeIds(out[0, len(ids) :].tolist())}


def logits(*paths: str) -> Any:
    """Run the decode signature of each file over some tokens; compare their logits."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    found = []
    for path in paths:
        interpreter = Interpreter(model_path=path)
        decode = interpreter.get_signature_runner("decode")
        details = decode.get_input_details()
        state = {
            name: np.zeros(detail["shape"], detail["dtype"])
            for name, detail in details.items()
            if name.startswith("kv_cache")
        }
        rows = []
        for position, token in enumerate((2, 818, 5279, 529, 9405, 563)):
            mask = np.full(details["mask"]["shape"], -1e9, np.float32)
            mask[..., : position + 1] = 0
            answer = decode(
                tokens=np.array([[token]], np.int32),
                input_pos=np.array([position], np.int32),
                mask=mask,
                **state,
            )
            rows.append(answer.pop("logits").copy())
            state = answer
        found.append(np.stack(rows))
    return {
        "equal": bool((found[0].view(np.uint32) == found[1].view(np.uint32)).all()),
        "finite": bool(np.isfinite(found[0]).all()),
        "shape": list(found[0].shape),
    }


if __name__ == "__main__":
    answer = text(*sys.argv[2:]) if sys.argv[1] == "text" else logits(*sys.argv[2:])
    print(json.dumps(answer))
