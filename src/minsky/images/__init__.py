"""Images: one recipe, one table of pins, built where it is needed and only when its content has changed.

from minsky.images import ensure, ensure_sif, image
ensure(image("node"))        # 'minsky/node:2f6c...'
ensure_sif(image("lab"))     # ~/.cache/minsky/sif/lab-x86_64-2f6c....sif
"""

from minsky.images.build import ensure, needs
from minsky.images.recipes import image
from minsky.images.sif import ensure_sif
from minsky.images.sif import needs as needs_sif

__all__ = ["ensure", "ensure_sif", "image", "needs", "needs_sif"]
