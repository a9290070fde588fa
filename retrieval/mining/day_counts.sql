-- What became of the rows of one day. All but the first two come from its steps, which are quicker to read than texts.
SELECT
    rows_read,
    rows_of_other_origin,
    rows_read - rows_of_other_origin - rows_mined AS rows_without_user_and_session,
    rows_without_user,
    sessions,
    repeats,
    transitions
FROM (
    SELECT
        count(*) AS rows_read,
        count(CASE WHEN origin NOT IN ('typed', 'import') THEN 1 END) AS rows_of_other_origin
    FROM searches
    WHERE today
) AS log
CROSS JOIN (
    SELECT
        count(*) AS rows_mined,
        count(CASE WHEN person < 0 THEN 1 END) AS rows_without_user,
        count(CASE WHEN prev_id IS NULL THEN 1 END) AS sessions,
        count(CASE WHEN prev_id = query_id THEN 1 END) AS repeats,
        count(CASE WHEN prev_id <> query_id THEN 1 END) AS transitions
    FROM steps
) AS mined
