-- Orders are being placed while this runs: CONCURRENTLY blocks no writer, and must stand alone in its file.
CREATE INDEX CONCURRENTLY "order_customer_id_placed_at_idx" ON "order"("customer_id", "placed_at" DESC);
