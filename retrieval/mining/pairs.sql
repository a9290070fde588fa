-- c of every (q, q_next): how often people went from one to the other, each person up to the cap.
SELECT
    query_id, next_id,
    CAST(sum(least(n, {per_person_cap})) AS BIGINT) AS count,
    count(CASE WHEN person >= 0 THEN 1 END) AS people,
    max(last_day) AS last_day
FROM (
    SELECT person, query_id, next_id, count(*) AS n, max(day) AS last_day
    FROM (SELECT person, prev_id AS query_id, query_id AS next_id, day FROM steps) AS t
    WHERE query_id <> next_id
        AND person NOT IN (SELECT person FROM bots)
    GROUP BY person, query_id, next_id
) AS by_person
GROUP BY query_id, next_id
