"""TorchServe: workers in Python that get whole batches from a server in Java.

Packs the model and torchserve_handler into an archive, writes TorchServe's configuration files, and
replaces this process by TorchServe.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torchherd_tools.bench.peers import settings

BIN = Path(sys.executable).parent

MODEL_CONFIG = """\
minWorkers: {workers}
maxWorkers: {workers}
batchSize: {batch}
maxBatchDelay: {wait_ms}
responseTimeout: 120
threads: {threads}
"""
# The servers for management and metrics are required; sockets keep them off the network.
SERVER_CONFIG = """\
inference_address=http://127.0.0.1:{port}
management_address=unix:{folder}/management.sock
metrics_address=unix:{folder}/metrics.sock
disable_token_authorization=true
enable_grpc=false
"""
# TorchServe's default writes several lines per request, to files and to its output.
LOG_CONFIG = """\
<Configuration>
  <Appenders><Console name="out"/></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def pack(chosen: settings.Settings, folder: Path) -> None:
    """Write the archive image.mar, config.properties and log.xml into a folder."""
    config = folder / "model-config.yaml"
    config.write_text(MODEL_CONFIG.format(**vars(chosen)))
    (folder / "config.properties").write_text(SERVER_CONFIG.format(port=chosen.port, folder=folder))
    (folder / "log.xml").write_text(LOG_CONFIG)
    subprocess.run(
        [
            *(sys.executable, "-m", "model_archiver.model_packaging"),
            *("--model-name", "image", "--version", "1.0"),
            *("--serialized-file", chosen.model, "--config-file", config),
            *("--handler", Path(__file__).with_name("torchserve_handler.py")),
            *("--export-path", folder),
        ],
        check=True,
    )


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="torchserve-"))
    pack(settings.read(), folder)
    # TorchServe starts its workers as "python", and writes its logs below the current folder.
    os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
    os.chdir(folder)
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "ts.model_server"),
            *("--start", "--foreground", "--ncs", "--model-store", folder),
            *("--models", "image=image.mar", "--ts-config", folder / "config.properties"),
            *("--log-config", folder / "log.xml"),
        ],
    )
