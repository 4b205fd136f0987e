"""The house keeps its shape: what may import what, and what the server never needs."""

import subprocess
import sys

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "sklearn", "skimage", "attacker_client"}:
            raise ModuleNotFoundError(f"{name} is not part of the server install")
sys.meta_path.insert(0, Blocked())
import pkgutil, app, defenses
for package in (app, defenses):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
import models.bundle, models.manifest, models.preprocess, models.runtime
print("imported", len([name for name in sys.modules if name.startswith(("app", "defenses", "models"))]))
"""


def test_the_server_imports_without_torch() -> None:
    """Every module of app and defenses, with torch, scikit-learn and the attacker made unimportable."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BLOCKED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 30


def test_importing_the_app_does_nothing() -> None:
    """No settings are read, no model is loaded, no thread is started at import."""
    script = "import threading, app.public.application, app.cli, sys; print(threading.active_count(), 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "1"
