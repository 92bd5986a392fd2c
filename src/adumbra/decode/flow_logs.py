"""Turns lines of flow logs into columns of flows: AWS, Azure and GCP's, and Zeek's conn.log, told apart by content.

Opens nothing, attributes nothing. Each format stands in its own module beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adumbra.decode.flow_logs_aws import AwsRecords
from adumbra.decode.flow_logs_azure import AzureRecords
from adumbra.decode.flow_logs_gcp import GcpEntries
from adumbra.decode.flow_logs_json import JsonObjects
from adumbra.decode.flow_logs_rows import HEADER, MALFORMED, UNSUPPORTED, Rows, Tally
from adumbra.decode.flow_logs_zeek import ZeekConnections
from adumbra.schema.errors import SourceError
from adumbra.schema.records import FlowRecords, LogLines

MAX_TEXT_LINE_BYTES = 1 << 16
_PATIENCE_LINES = 1000
_BOM = b"\xef\xbb\xbf"


class LogDecoder:
    """Decodes batch after batch of one log's lines. How lines are cut into batches changes no result.

    Lines that begin with a bracket are JSON, those with `#` Zeek's directives; what follows Zeek's `#fields` are its
    connections; all else is AWS's text. What a format tells, and from where that is known, its own module says.
    """

    def __init__(self) -> None:
        self._rows, self._tally = Rows(), Tally()
        self._aws = AwsRecords(self._rows, self._tally)
        self._azure = AzureRecords(self._rows, self._tally)
        self._gcp = GcpEntries(self._rows, self._tally)
        self._zeek = ZeekConnections(self._rows, self._tally)
        self._json = JsonObjects(lambda line, why: self._tally.drop(MALFORMED, line, why))
        self._recognised = False
        self._tried = 0

    @property
    def missed_bytes(self) -> int:
        """Bytes that Zeek says it missed in the middle of connections; they are in no flow."""
        return self._zeek.missed_bytes

    @property
    def problems(self) -> tuple[str, ...]:
        """The first few lines of each kind that gave no flow, and why: "line 7: 3 fields, where there should be 14"."""
        return self._tally.problems

    def decode(self, lines: LogLines) -> FlowRecords:
        """The flows of these lines, not yet attributed.

        Raises SourceError if there has been nothing in the first 1,000 lines that any format explains.
        """
        for number, line in enumerate(lines.lines, lines.first_line):
            self._read(line, number)
        if not self._recognised and self._tried >= _PATIENCE_LINES:
            raise self._unknown()
        return self._take()

    def finish(self) -> FlowRecords:
        """To be called at the log's end: what is left, which is nothing but counts. Raises SourceError as `decode` does."""
        self._json.finish()
        if not self._recognised and self._tried:
            raise self._unknown()
        return self._take()

    def accounts(self) -> Mapping[str, int]:
        """What became of each line, or, where a line or several of them hold many entries, of each entry.

        `parsed` counts the rows given, of which Zeek's and Azure's connections have two; `header` also comments and empty
        lines; `nodata` and `skipdata` AWS's records of neither; `duplicate` what another reporter tells too; `malformed` what
        can't be read; `unsupported` what can, but holds no flow that can be placed.
        """
        return self._tally.counts

    def _take(self) -> FlowRecords:
        return self._rows.take(whole_connections=self._zeek.read_any)

    def _unknown(self) -> SourceError:
        first = self._tally.problems[0] if self._tally.problems else "it holds no flow"
        return SourceError(
            f"no flow log that is known ({first})",
            "give AWS VPC flow logs with their header or in the default format, Azure or GCP flow logs, or Zeek's conn.log",
        )

    def _read(self, raw: bytes, number: int) -> None:
        line = raw.removeprefix(_BOM).strip(b" \r\n") if number == 1 else raw.strip(b" \r\n")
        first = line[:1]
        if not line or line.isspace():
            self._tally.count(HEADER)
        elif self._json.open or first in {b"{", b"["}:
            for value in self._json.read(line, number):
                self._read_object(value, number)
            self._tried += 1
        elif len(line) > MAX_TEXT_LINE_BYTES:
            self._tally.drop(MALFORMED, number, f"a line of {len(line):,} bytes; at most {MAX_TEXT_LINE_BYTES:,} are read")
            self._tried += 1
        else:
            self._read_text(line, number)

    def _read_text(self, line: bytes, number: int) -> None:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            self._tally.drop(MALFORMED, number, "bytes that are no UTF-8 text")
            self._tried += 1
            return
        if text[0] == "#":
            self._zeek.read_header(text)
            self._recognised = self._recognised or self._zeek.begun
        elif self._zeek.begun:
            self._zeek.read_line(text, number)
        else:
            self._tried += 1
            self._recognised = self._aws.read_line(text, number) or self._recognised

    def _read_object(self, value: Mapping[str, Any], number: int) -> None:
        """Reads a JSON object by what it holds."""
        recognised = True
        if isinstance(value.get("jsonPayload"), dict) or isinstance(value.get("connection"), dict):
            self._gcp.read(value, number)
        elif "flowRecords" in value or isinstance(value.get("properties"), dict):
            self._azure.read(value, number)
        elif "id.orig_h" in value or isinstance(value.get("id"), dict):
            ends = value["id"] if isinstance(value.get("id"), dict) else {}
            plain = {**value, **{f"id.{name}": each for name, each in ends.items()}}
            self._zeek.read({name: each for name, each in plain.items() if each is not None}, number)
        elif isinstance(value.get("message"), str):
            self._read_message(value["message"], number)
        else:
            named = {name.lower().replace("_", "-"): each for name, each in value.items() if each is not None and each != "-"}
            if recognised := bool(named.keys() & {"srcaddr", "pkt-srcaddr", "log-status"}):
                self._aws.read(named, number)
            else:
                self._tally.drop(UNSUPPORTED, number, "an object that no flow log's records look like")
        self._recognised = self._recognised or recognised

    def _read_message(self, message: str, number: int) -> None:
        """Reads a record within an event of CloudWatch Logs."""
        if len(message) > MAX_TEXT_LINE_BYTES or not message.strip():
            self._tally.drop(MALFORMED, number, "a message that is no record")
        else:
            self._aws.read_line(message, number)
