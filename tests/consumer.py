"""What an application does with a registered model, with nothing installed but `mlflow`: find, trace, classify.

    python tests/consumer.py TRACKING_URI IMAGE [NAME]

Finds the champion, prints its scores and where it came from, classifies the image as bytes and as an array, and
prints it all as JSON. Run it outside the checkout, in its own environment: no torch, none of our packages.
"""

import importlib.util
import json
import sys
from pathlib import Path

import mlflow


def main(tracking_uri: str, image: str, name: str = "vit-mini") -> None:
    mlflow.set_tracking_uri(tracking_uri)
    version = mlflow.MlflowClient().get_model_version_by_alias(name, "champion")
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    data = Path(image).read_bytes()
    tags = version.tags
    found = {
        "champion": f"models:/{name}/{version.version}",
        "scores": {key.removeprefix("metric."): float(tags[key]) for key in sorted(tags) if key.startswith("metric.")},
        "decision": tags["vitflow.decision"],
        "commit": tags.get("git.commit"),
        "dirty": tags.get("git.dirty"),
        "config": {key: tags[key] for key in sorted(tags) if key.startswith("config.")},
        "data": {key: tags[key] for key in sorted(tags) if key.startswith(("dvc.", "input."))},
        "stages": sorted((model.metadata.metadata or {}).get("configs", {})),
        "signature": str(model.metadata.signature),
        "from_bytes": model.predict(data).to_dict("records"),
        "from_list_of_bytes": model.predict([data, data]).to_dict("records"),
        "from_table": model.predict({"image": [data]}).to_dict("records"),
        "from_array": model.predict(pixels(data)).to_dict("records"),
        "top_3": model.predict([data], params={"top_k": 3}).to_dict("records"),
        "torch_installed": importlib.util.find_spec("torch") is not None,
    }
    print(json.dumps(found, indent=2))


def pixels(data: bytes):
    """The image as a uint8 array [H, W, 3]."""
    import io

    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


if __name__ == "__main__":
    main(*sys.argv[1:])
