SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.ts, a.item, a.initial, a.reserve, a.ts, a.expires, a.seller,
       a.category
FROM bid AS b JOIN auction AS a ON b.auction = a.id
WHERE a.category = 10
