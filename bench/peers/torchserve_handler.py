"""What TorchServe's workers run; torchserve_peer.py packs it with the model."""

from pathlib import Path

import pixels
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler


class Translate(BaseHandler):
    """A worker with a model of its own: TorchServe calls handle with a batch."""

    def initialize(self, context: Context) -> None:
        """Load the model."""
        path = Path(
            context.system_properties["model_dir"], context.manifest["model"]["serializedFile"]
        )
        self.model = pixels.Model(str(path), context.model_yaml_config["threads"])
        self.initialized = True

    def preprocess(self, data: list[dict[str, bytearray]]) -> list[pixels.Pixels]:
        """Decode the requests' bodies."""
        return [pixels.decode(request["body"]) for request in data]

    def inference(self, data: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run the batch."""
        return self.model(data)

    def postprocess(self, data: list[pixels.Pixels]) -> list[bytes]:
        """Encode the answers."""
        return [pixels.encode(picture) for picture in data]
