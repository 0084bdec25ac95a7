"""Parts of this package that run inside another trainer. Nothing here is imported by `import gspo`."""

from __future__ import annotations

__all__: list[str] = []
