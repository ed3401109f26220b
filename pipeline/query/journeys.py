"""What customers do one after the other, in SQL: whose an event is now, funnels, retention, RFM.

Table functions over a partner's tables, that a query calls as it reads a table; made anew with each query.
"""

from __future__ import annotations

__all__ = ["CUSTOMER_EVENTS", "FUNCTIONS", "VIEW"]

CUSTOMER_EVENTS = "customer_events"
#: `events` says whose one was when it came; what has become of that since, `identities`.
VIEW = """
    SELECT who.customer, events.* EXCLUDE (customer)
    FROM events JOIN identities who ON events.customer = who.identifier AND events.time >= who.since
"""

# What is of one moment, as in a batch, may stand for two steps of different names.
# A customer goes through the steps in order, each at its earliest chance behind the one before, from each first step:
# no other choice gets further.
_FUNNEL = """
    WITH RECURSIVE been AS (
        SELECT customer, time AS began, time AS moment, NULL::TIMESTAMPTZ AS previous, 1 AS step
        FROM customer_events WHERE name = steps[1]
        UNION ALL
        SELECT been.customer, been.began, min(later.time), any_value(been.moment), been.step + 1
        FROM been JOIN customer_events later ON later.customer = been.customer
            AND later.name = steps[been.step + 1] AND later.time >= been.moment
            AND (later.time > been.moment OR steps[been.step + 1] <> steps[been.step])
            AND later.time <= been.began + within
        GROUP BY been.customer, been.began, been.step
    ),
    quickest AS (
        SELECT step, customer, min(epoch_ms(moment) - epoch_ms(previous)) AS took FROM been GROUP BY step, customer
    ),
    counted AS (SELECT step, count(*) AS customers, median(took) / 1000 AS seconds FROM quickest GROUP BY step)
    SELECT named.step, named.name, coalesce(customers, 0) AS customers,
        coalesce(customers, 0) / nullif(first_value(customers) OVER (ORDER BY named.step), 0) AS share,
        seconds AS median_seconds
    FROM (SELECT unnest(steps) AS name, unnest(range(1, len(steps) + 1)) AS step) named LEFT JOIN counted USING (step)
    ORDER BY named.step
"""

_RETENTION = """
    WITH firsts AS (
        SELECT customer, date_trunc(every, min(time)) AS cohort FROM customer_events WHERE name = first
        GROUP BY customer
    ),
    sizes AS (SELECT cohort, count(*) AS size FROM firsts GROUP BY cohort),
    seen AS (
        SELECT DISTINCT cohort, date_diff(every, cohort, date_trunc(every, time)) AS period, customer
        FROM firsts JOIN customer_events USING (customer)
        WHERE name = again AND date_trunc(every, time) >= cohort
    )
    SELECT cohort, size, period, count(*) AS customers, count(*) / size AS share
    FROM seen JOIN sizes USING (cohort) GROUP BY cohort, size, period ORDER BY cohort, period
"""

_RFM = """
    WITH bought AS (
        SELECT customer, max(time) AS last, count(DISTINCT (source, id)) AS frequency,
            coalesce(sum(TRY_CAST(properties->>amount AS DECIMAL(18, 4))), 0) AS monetary
        FROM customer_events WHERE name = event GROUP BY customer
    )
    SELECT customer, last, frequency, monetary,
        ntile(5) OVER (ORDER BY last, customer) AS r,
        ntile(5) OVER (ORDER BY frequency, customer) AS f,
        ntile(5) OVER (ORDER BY monetary, customer) AS m
    FROM bought ORDER BY customer
"""

#: How it is called -> what it gives.
FUNCTIONS = {
    "funnel(steps, within)": _FUNNEL,
    "retention(first, again, every)": _RETENTION,
    "rfm(event, amount)": _RFM,
}
