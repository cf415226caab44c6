"""Photograph TensorBoard's custom-scalars page as a person sees it, with Debian's chromium.

    python scripts/screenshot.py RUNS_DIR --picture tensorboard.png

Needs the program `chromium` (apt-get install chromium).
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HEADLESS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=20000",  # milliseconds that the page may take to draw itself
)


def main() -> int:
    """Serve the runs, wait for the page, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="RUNS_DIR")
    parser.add_argument("--picture", type=Path, default=Path("tensorboard.png"), metavar="FILE")
    parser.add_argument("--size", default="1500,1250", help="of the window in pixels")
    options = parser.parse_args()
    browser = shutil.which("chromium")
    if browser is None:
        print("screenshot.py: there is no chromium on this machine", file=sys.stderr)
        return 2
    port = free_port()
    board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(options.runs), "--port", str(port)]
    server = subprocess.Popen(board, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://localhost:{port}/"
        wait_for(f"{address}data/plugin/custom_scalars/layout")
        photograph(browser, f"{address}#custom_scalars", options.picture, options.size)
    finally:
        server.terminate()
        server.wait()
    print(options.picture)
    return 0


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def wait_for(address: str, seconds: float = 60.0) -> None:
    """Return when the server answers with a layout. Raises `TimeoutError` if it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if b"category" in answer.read():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{address} did not answer within {seconds:.0f} s")


def photograph(browser: str, address: str, picture: Path, size: str) -> None:
    """Write a picture of a page."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *HEADLESS, f"--user-data-dir={profile}", f"--window-size={size}"]
        subprocess.run([*command, f"--screenshot={picture.resolve()}", address], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
