"""How the emulator's kernels are compiled. Compiles nothing itself."""

from pathlib import Path

from adumbra.compiling import Kernels

_FOLDER = Path(__file__).parent
_KERNELS = Kernels([_FOLDER / "queueing.py", *sorted(_FOLDER.rglob("*layout.py")), *sorted(_FOLDER.rglob("*kernels.py"))])
compiled, inlined = _KERNELS.compiled, _KERNELS.inlined
