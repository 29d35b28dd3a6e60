-- CreateTable
CREATE TABLE "review" (
    "id" BIGSERIAL NOT NULL,
    "book_id" INTEGER NOT NULL,
    "customer_id" INTEGER NOT NULL,
    "stars" SMALLINT NOT NULL,
    "text" TEXT,
    "written_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "review_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "review_stars_check" CHECK ("stars" BETWEEN 1 AND 5)
);

-- CreateIndex
CREATE UNIQUE INDEX "review_book_id_customer_id_key" ON "review"("book_id", "customer_id");

-- AddForeignKey
ALTER TABLE "review" ADD CONSTRAINT "review_book_id_fkey"
    FOREIGN KEY ("book_id") REFERENCES "book"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "review" ADD CONSTRAINT "review_customer_id_fkey"
    FOREIGN KEY ("customer_id") REFERENCES "customer"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- CreateView
CREATE VIEW "book_rating" AS
SELECT "book"."id" AS "book_id",
       count("review"."id") AS "reviews",
       round(avg("review"."stars"), 1) AS "stars"
FROM "book"
LEFT JOIN "review" ON "review"."book_id" = "book"."id"
GROUP BY "book"."id";
