-- One row for every query of one day, with the query before it when no more than the silence lies between.
-- Immediate repeats need no rule of their own: their step is from a query to itself, and is left out when steps are
-- counted, while the silence after a repeat still begins at the last of the repeats.
SELECT person, prev_id, query_id, CAST('{day}' AS DATE) AS day
FROM (
    SELECT
        person, query_id, today,
        CASE WHEN at_us - lag(at_us) OVER stream <= {silence_us} THEN lag(query_id) OVER stream END AS prev_id
    FROM searches
    WHERE origin IN ('typed', 'import') AND person IS NOT NULL
    WINDOW stream AS (PARTITION BY stream_id ORDER BY at_us, position)
) AS ordered
WHERE today
