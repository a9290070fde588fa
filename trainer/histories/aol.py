"""The layout of the AOL log of 2006: AnonID, Query, QueryTime, ItemRank, ClickURL, with tabs between.

Each click has a row of its own, which says the search again. A query that is "-" was withheld. nextquery ships no row of that
log: only its layout is known here.
"""

EVENTS = """
WITH rows AS (
    SELECT AnonID AS person, TRY_CAST(QueryTime AS TIMESTAMP) AS moment, Query AS query, ClickURL AS url
    FROM read_csv($log, delim = '\t', header = true, quote = '', escape = '', all_varchar = true,
                  null_padding = true, ignore_errors = true)
)
SELECT DISTINCT person, moment, 'search' AS source, query AS text FROM rows WHERE query <> '-'
UNION ALL
SELECT person, moment, 'click', url FROM rows WHERE url IS NOT NULL
"""
