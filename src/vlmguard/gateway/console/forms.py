"""What a browser sends: a form's fields, urlencoded or (with files) in several parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from vlmguard.gateway.asgi import Refused

_MOST_FIELDS = 50
_BOUNDARY = re.compile(r'boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,70})"?')
_NAME = re.compile(rb'[;\s]name="([^"\r\n]*)"')


@dataclass(frozen=True, slots=True)
class Form:
    """Fields by name; of several with one name the last."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes] = field(repr=False, default_factory=dict)

    def get(self, name: str) -> str:
        return self.fields.get(name, "")


def query(text: bytes) -> dict[str, str]:
    """The fields of an address or of an urlencoded form. Raises ``Refused``."""
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise Refused(400, "the form cannot be read", "bad_form") from error
    return {name: value.replace("\0", "") for name, value in pairs}


def read(content_type: bytes | None, body: bytes) -> Form:
    """The form that a body is. Raises ``Refused``."""
    kind, _, parameters = (content_type or b"").decode("latin-1").partition(";")
    match kind.strip().lower():
        case "application/x-www-form-urlencoded":
            return Form(query(body))
        case "multipart/form-data" if (found := _BOUNDARY.search(parameters)) is not None:
            return _parts(body, found[1].rstrip().encode())
    raise Refused(415, "a form is expected", "bad_form")


def _parts(body: bytes, boundary: bytes) -> Form:
    """RFC 7578, as browsers write it."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if len(pieces) > _MOST_FIELDS or not pieces[-1].startswith(b"--"):
        raise Refused(400, "the form cannot be read", "bad_form")
    for piece in pieces[1:-1]:
        head, mark, value = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not mark or name is None:
            raise Refused(400, "the form cannot be read", "bad_form")
        word = name[1].decode(errors="replace")
        if b"filename=" in head:
            files[word] = value
        else:
            fields[word] = value.decode(errors="replace").replace("\0", "")
    return Form(fields, files)
