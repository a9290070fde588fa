-- Who typed more on this day than a person can.
SELECT person
FROM steps
GROUP BY person
HAVING count(*) > {bot_queries_per_day}
