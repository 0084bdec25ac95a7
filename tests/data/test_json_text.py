"""JSON lines as the web and other systems write them."""

from __future__ import annotations

import json
from pathlib import Path

from gspo.data.rows import read_table


def test_other_line_separators_inside_a_text_do_not_end_a_row(tmp_path: Path) -> None:
    rows = [{"prompt": "one\u2028two\u0085three\x0bfour"}, {"prompt": "five"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert read_table(file).rows == rows


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "one"}\r\n{"prompt": "two"}\r\n')
    assert read_table(file).rows == [{"prompt": "one"}, {"prompt": "two"}]
