-- How often every query was typed, each person up to the cap, and by how many known people.
SELECT
    query_id,
    CAST(sum(least(n, {per_person_cap})) AS BIGINT) AS count,
    count(CASE WHEN person >= 0 THEN 1 END) AS people,
    max(last_day) AS last_day
FROM (
    SELECT person, query_id, count(*) AS n, max(day) AS last_day
    FROM steps
    WHERE person NOT IN (SELECT person FROM bots)
    GROUP BY person, query_id
) AS by_person
GROUP BY query_id
