"""How the meter's kernels are compiled. Compiles nothing itself."""

from pathlib import Path

from adumbra.compiling import Kernels

_FOLDER = Path(__file__).parent
_KERNELS = Kernels([_FOLDER / "prefetch.py", _FOLDER / "layout.py", *sorted(_FOLDER.glob("*kernels.py"))])
compiled, inlined, allocating = _KERNELS.compiled, _KERNELS.inlined, _KERNELS.allocating
