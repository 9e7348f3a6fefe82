"""The handler of TorchServe's workers; torchserve_peer packs it with the model."""

from pathlib import Path

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from torchherd_tools.bench.peers import pixels


class Translate(BaseHandler):
    """A worker with its own model: TorchServe calls handle with a batch."""

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
        """Encode the results."""
        return [pixels.encode(image) for image in data]
