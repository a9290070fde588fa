"""Small logs of every format, written by hand for these tests; no row is from a log of real people.

It knows nothing about how they are read.
"""

import io
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 1, 5, 10, tzinfo=UTC)

CSV = b"""query,user_id,session_id,at
how to cook rice,u1,s1,2026-01-05T10:00:00Z
"rice, ""brown"" one",u1,s1,2026-01-05T10:01:00Z
kyoto,,s2,1767607320
kyoto in autumn,,s2,1767607380000
"""

UBI = b"""{"application": "shop", "query_id": "q1", "client_id": "c1", "user_query": "red shoes", \
"timestamp": "2026-01-05T10:00:00Z", "query_attributes": {"session_id": "s1"}}
{"query_id": "q1", "client_id": "c1", "user_query": "red shoes", "timestamp": "2026-01-05T10:00:02Z"}
{"_index": "ubi_queries", "_source": {"query_id": "q2", "client_id": 7, "user_query": "blue shoes", \
"timestamp": 1767607320000, "session_id": "s2"}}
"""

AOL = b"""AnonID\tQuery\tQueryTime\tItemRank\tClickURL
9001\tsourdough starter\t2026-01-05 10:00:00\t1\thttp://bread.example
9001\tsourdough starter\t2026-01-05 10:00:00\t3\thttp://flour.example
9001\tsourdough bread\t2026-01-05 10:04:00\t\t
9002\t-\t2026-01-05 11:00:00\t\t
9002\trye bread\t2026-01-05 11:01:00
"""

TREC = b"""<?xml version="1.0" encoding="UTF-8"?>
<sessiontrack2030>
  <session num="1" starttime="23:58:00.000000" userid="w7">
    <topic num="4"><title>Rice</title></topic>
    <interaction num="1" starttime="23:58:30.500000" type="reformulate">
      <query>rice &amp; beans</query>
      <results><result rank="1"><title>Beans & rice</title></result></results>
      <clicked><click num="1" starttime="23:59:00"><rank>1</rank></click></clicked>
    </interaction>
    <currentquery starttime="00:00:10.000000">
      <query>rice and beans recipe</query>
    </currentquery>
  </session>
  <session num="2">
    <interaction num="1" starttime="10:00:00"><query>kyoto</query></interaction>
  </session>
</sessiontrack2030>
"""


def parquet(**columns: Any) -> bytes:
    """A Parquet file with these columns, each a list or an Arrow array."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


PARQUET = parquet(
    query=["how to cook rice", "kyoto", "kyoto in autumn"],
    user_id=pa.array([7, None, None], pa.int64()),
    session_id=["s1", "s2", "s2"],
    at=pa.array([START] * 3, pa.timestamp("ns", "Europe/Paris")),
)

LOGS = {"csv": CSV, "ubi": UBI, "aol": AOL, "trec-session": TREC, "parquet": PARQUET}
