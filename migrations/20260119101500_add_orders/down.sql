DROP TABLE "order_line";
DROP TABLE "order";
DROP TABLE "shipping_method";
DROP TYPE "order_status";
