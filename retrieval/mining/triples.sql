-- The triples whose second query may be shown to others. Both sums are taken before the others are left out.
WITH total AS (
    SELECT query_id, CAST(sum(count) AS BIGINT) AS total FROM pairs GROUP BY query_id
),
popularity AS (
    SELECT next_id, CAST(sum(count) AS BIGINT) AS popularity FROM pairs GROUP BY next_id
)
SELECT p.query_id, p.next_id, p.count, p.people, p.last_day, total.total, popularity.popularity
FROM pairs AS p
JOIN typed ON typed.query_id = p.next_id AND typed.people >= {k}
JOIN total ON total.query_id = p.query_id
JOIN popularity ON popularity.next_id = p.next_id
