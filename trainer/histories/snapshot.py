"""A snapshot of nextquery's own log: what people typed, and the queries that they clicked in lists.

Searches of any origin but clicked count as typed; a click is the query at its position.
"""

EVENTS = """
WITH shown AS (
    SELECT impression_id, user_id AS person, candidates
    FROM read_parquet($log || '/impressions/*.parquet') WHERE user_id IS NOT NULL
)
SELECT user_id AS person, CAST("at" AS TIMESTAMP) AS moment, 'search' AS source, query AS text
FROM read_parquet($log || '/searches/*.parquet') WHERE origin <> 'clicked'
UNION ALL
SELECT person, CAST("at" AS TIMESTAMP), 'click', json_extract_string(candidates, '$[' || (position - 1) || '].text')
FROM read_parquet($log || '/clicks/*.parquet') JOIN shown USING (impression_id)
WHERE kind = 'click' AND position > 0
"""
