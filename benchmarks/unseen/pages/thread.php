<?php
require 'common.php';
$id = (int) ($_GET['id'] ?? 1);
$body = '';
foreach (rows('SELECT author, text FROM posts WHERE thread = ? ORDER BY id LIMIT 100', [$id]) as $row) {
    $body .= '<article><h2>' . htmlspecialchars($row['author']) . '</h2>' . marked($row['text']) . '</article>';
}
page("Thread $id", $body);
