-- Not CONCURRENTLY: dropping an index is quick, and so it stays in one transaction with the history.
DROP INDEX "order_customer_id_placed_at_idx";
