ALTER TABLE "book"
    DROP COLUMN "language",
    DROP COLUMN "pages",
    DROP COLUMN "isbn";
