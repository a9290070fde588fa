-- What a whole window made.
SELECT bots.*, pairs.*, triples.*, queries.*
FROM (
    SELECT
        (SELECT count(*) FROM (SELECT DISTINCT person FROM bots) AS people) AS bots,
        count(*) AS rows_of_bots
    FROM steps
    WHERE person IN (SELECT person FROM bots)
) AS bots
CROSS JOIN (SELECT count(*) AS pairs, CAST(coalesce(sum(count), 0) AS BIGINT) AS pair_count FROM pairs) AS pairs
CROSS JOIN (SELECT count(*) AS triples FROM triples) AS triples
CROSS JOIN (
    SELECT count(*) AS queries, count(CASE WHEN shareable THEN 1 END) AS shareable_queries FROM queries
) AS queries
