-- How often each form of a query was typed on this day, by others than its bots.
SELECT query_id, query, count(*) AS n
FROM searches
WHERE today AND origin IN ('typed', 'import') AND person IS NOT NULL
    AND person NOT IN (SELECT person FROM bots)
GROUP BY query_id, query
