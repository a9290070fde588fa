"""Search sessions without people or times: JSON lines with `session` and its `queries` in order.

A session stands for a person, and the place of a query for its time.
"""

EVENTS = """
WITH lines AS (SELECT json AS line FROM read_ndjson_objects($log, ignore_errors = true)),
     listed AS (
        SELECT line ->> '$.session' AS person, CAST(line -> '$.queries' AS VARCHAR[]) AS queries
        FROM lines WHERE json_type(line -> '$.queries') = 'ARRAY'
     )
SELECT
    person,
    make_timestamp(1000000 * unnest(range(1, len(queries) + 1))) AS moment,
    'search' AS source,
    unnest(queries) AS text
FROM listed
"""
