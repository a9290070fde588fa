"""User Behavior Insights: JSON lines as exported from the indexes `ubi_queries` and `ubi_events`, in one file or several.

A query is a search of its client; of events those count that are a click, a purchase or a visit by their `action_name`, and
their text is the object's name, else the message. A line may be a search engine's document, with the fields in `_source`.
"""

EVENTS = """
WITH lines AS (
    SELECT COALESCE(json -> '$._source', json) AS line
    FROM read_ndjson_objects($log, ignore_errors = true)
), fields AS (
    SELECT
        line ->> '$.client_id' AS person,
        line ->> '$.timestamp' AS timestamp,
        line ->> '$.user_query' AS query,
        lower(line ->> '$.action_name') AS action,
        COALESCE(line ->> '$.event_attributes.object.name', line ->> '$.message') AS object
    FROM lines
)
SELECT
    person,
    COALESCE(
        CAST(TRY_CAST(timestamp AS TIMESTAMPTZ) AS TIMESTAMP),
        make_timestamp(TRY_CAST(timestamp AS BIGINT) * 1000)
    ) AS moment,
    CASE
        WHEN action IS NULL THEN 'search'
        WHEN action LIKE '%click%' THEN 'click'
        WHEN action LIKE '%purchase%' OR action LIKE '%checkout%' THEN 'purchase'
        ELSE 'visit'
    END AS source,
    CASE WHEN action IS NULL THEN query ELSE object END AS text
FROM fields
WHERE action IS NULL OR regexp_matches(action, 'click|purchase|checkout|visit|view')
"""
