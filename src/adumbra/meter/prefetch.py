"""Asks the processor for memory that a kernel will soon need, so that it needn't wait for it. Changes nothing."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FOR_READING, _KEEP, _DATA = 0, 3, 1


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Fetches the cache line in which a row of an array begins; the row must lie within it."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8).as_pointer()
        stride = cgutils.unpack_tuple(builder, view.strides)[0]
        start = builder.bitcast(view.data, byte)
        place = builder.gep(start, [builder.mul(context.cast(builder, arguments[1], signature.args[1], types.intp), stride)])
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(fetch, [place, flag(_FOR_READING), flag(_KEEP), flag(_DATA)])
        return context.get_dummy_value()

    return types.void(array, row), generate
