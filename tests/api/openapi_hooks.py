"""What schemathesis can't make by itself: a body of the media type that is this program's own."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies
from tests.api import lives

from adumbra.store.batch_bytes import MEDIA_TYPE, pack_batch

schemathesis.openapi.media_type(MEDIA_TYPE, strategies.just(pack_batch(lives.batch("shop", steps=2))))
