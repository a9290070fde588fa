-- Every query of the triples, in the form it was typed most often (of two equally frequent forms the smaller one).
WITH ids AS (
    SELECT query_id FROM triples UNION SELECT next_id FROM triples
),
forms AS (
    SELECT s.query_id, s.query, sum(s.n) AS n
    FROM surfaces AS s
    JOIN ids ON ids.query_id = s.query_id
    GROUP BY s.query_id, s.query
),
ranked AS (
    SELECT query_id, query, row_number() OVER (PARTITION BY query_id ORDER BY n DESC, query) AS place FROM forms
)
SELECT r.query_id, r.query AS text, t.people, t.count, t.last_day, t.people >= {k} AS shareable
FROM ranked AS r
JOIN typed AS t ON t.query_id = r.query_id
WHERE r.place = 1
