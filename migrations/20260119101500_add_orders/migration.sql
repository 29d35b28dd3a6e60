-- CreateEnum
CREATE TYPE "order_status" AS ENUM ('PLACED', 'PAID', 'SENT', 'CANCELLED');

-- CreateTable
CREATE TABLE "shipping_method" (
    "code" TEXT NOT NULL,
    "label" TEXT NOT NULL,
    "price_cents" INTEGER NOT NULL,

    CONSTRAINT "shipping_method_pkey" PRIMARY KEY ("code")
);

-- CreateTable
CREATE TABLE "order" (
    "id" BIGSERIAL NOT NULL,
    "customer_id" INTEGER NOT NULL,
    "shipping_code" TEXT NOT NULL,
    "status" "order_status" NOT NULL DEFAULT 'PLACED',
    "placed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "order_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "order_line" (
    "order_id" BIGINT NOT NULL,
    "book_id" INTEGER NOT NULL,
    "quantity" INTEGER NOT NULL DEFAULT 1,
    "price_cents" INTEGER NOT NULL,

    CONSTRAINT "order_line_pkey" PRIMARY KEY ("order_id", "book_id")
);

-- AddForeignKey
ALTER TABLE "order" ADD CONSTRAINT "order_customer_id_fkey"
    FOREIGN KEY ("customer_id") REFERENCES "customer"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "order" ADD CONSTRAINT "order_shipping_code_fkey"
    FOREIGN KEY ("shipping_code") REFERENCES "shipping_method"("code") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "order_line" ADD CONSTRAINT "order_line_order_id_fkey"
    FOREIGN KEY ("order_id") REFERENCES "order"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "order_line" ADD CONSTRAINT "order_line_book_id_fkey"
    FOREIGN KEY ("book_id") REFERENCES "book"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- Reference data: an order needs one of these
INSERT INTO "shipping_method" ("code", "label", "price_cents") VALUES
    ('post', 'By post, 3 to 5 days', 350),
    ('courier', 'By courier, next day', 990),
    ('pickup', 'Collected in the shop', 0);
